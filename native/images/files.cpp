#include "images/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace clipcid::images {
namespace {

// A process may have about a thousand files open, and several of these at once.
constexpr size_t kMostFiles = 64;
// Images beyond this are none, and memory is not asked for on a broken header's word.
constexpr int64_t kMostBytes = int64_t{1} << 30;

int openFile(const std::string& path) { return open(path.c_str(), O_RDONLY | O_CLOEXEC); }

bool readAt(int descriptor, int64_t offset, uint8_t* to, int64_t bytes) {
  while (bytes > 0) {
    const ssize_t got = pread(descriptor, to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    to += got;
    offset += got;
    bytes -= got;
  }
  return true;
}

// Parts of one file.
struct Stretch {
  int64_t from = 0, to = 0;
  int64_t wanted = 0;
  int64_t parts = 0;
};

}  // namespace

ImageFiles::ImageFiles(std::vector<ImageFile> files) : files_(std::move(files)) {
  std::map<std::string, Stretch> stretches;
  for (const ImageFile& file : files_) {
    if (file.data != nullptr || file.size < 0) continue;
    Stretch& stretch = stretches[file.path];
    const int64_t end = file.offset + file.size;
    stretch.from = stretch.parts == 0 ? file.offset : std::min(stretch.from, file.offset);
    stretch.to = std::max(stretch.to, end);
    stretch.wanted += file.size;
    ++stretch.parts;
  }
  for (const auto& [path, stretch] : stretches) {
    if (stretch.parts < 2 || open_.size() == kMostFiles) continue;
    const int descriptor = openFile(path);
    if (descriptor < 0) continue;  // whoever reads from it finds out
    open_[path] = descriptor;
#if defined(POSIX_FADV_WILLNEED)
    // Captions and headers lie between the images.
    if (stretch.to - stretch.from <= 2 * stretch.wanted) {
      (void)posix_fadvise(descriptor, stretch.from, stretch.to - stretch.from, POSIX_FADV_WILLNEED);
    }
#endif
  }
}

ImageFiles::~ImageFiles() {
  for (const auto& [path, descriptor] : open_) close(descriptor);
}

bool ImageFiles::read(size_t index, std::vector<uint8_t>* memory, const uint8_t** data,
                      size_t* length) const {
  const ImageFile& file = files_[index];
  if (file.data != nullptr) {
    *data = file.data;
    *length = file.length;
    return file.length > 0;
  }
  const auto shared = open_.find(file.path);
  const int descriptor = shared == open_.end() ? openFile(file.path) : shared->second;
  if (descriptor < 0) return false;
  int64_t size = file.size;
  struct stat status;
  if (size < 0) size = fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode) ? status.st_size : 0;
  bool good = size > 0 && size <= kMostBytes;
  if (good) {
    if (memory->size() < static_cast<size_t>(size)) memory->resize(static_cast<size_t>(size));
    good = readAt(descriptor, file.offset, memory->data(), size);
  }
  if (shared == open_.end()) close(descriptor);
  *data = memory->data();
  *length = static_cast<size_t>(std::max<int64_t>(size, 0));
  return good;
}

}  // namespace clipcid::images
