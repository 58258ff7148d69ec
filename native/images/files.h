// Encoded images: bytes in memory, files, and parts of files, which are read by position.
//
// Parts of one file share its descriptor. Where they lie close together, as in a tar that is gone through in order, the system is told of
// the whole stretch, so that it is read in one go.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace clipcid::images {

struct ImageFile {
  // In memory where not null, otherwise a file.
  const uint8_t* data = nullptr;
  size_t length = 0;
  std::string path;
  // Of the part; a size below 0 stands for the whole file.
  int64_t offset = 0;
  int64_t size = -1;
};

// Read from several threads.
class ImageFiles {
 public:
  explicit ImageFiles(std::vector<ImageFile> files);
  ~ImageFiles();
  ImageFiles(const ImageFiles&) = delete;
  ImageFiles& operator=(const ImageFiles&) = delete;

  size_t count() const { return files_.size(); }
  // The bytes of one, in `memory` where they came from a file. False where they cannot be read, or there are none.
  bool read(size_t index, std::vector<uint8_t>* memory, const uint8_t** data, size_t* length) const;

 private:
  std::vector<ImageFile> files_;
  std::map<std::string, int> open_;
};

}  // namespace clipcid::images
