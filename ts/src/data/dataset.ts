/** One image with its captions. `key` names it for people and in manifests; unique within a data set. */
export interface Item {
  readonly key: string;
  readonly captions: readonly string[];
  /** What else the source says of it (labels, groups, …), as read. */
  readonly metadata: Readonly<Record<string, unknown>>;
}

/** Why an item of the source is not in the data set. */
export interface Skipped {
  readonly key: string;
  readonly reason: string;
}

/** Images with captions by index: a manifest (JSONL, CSV, TSV), a folder, WebDataset tars. Encoded bytes are read when asked for. */
export interface Dataset {
  /** Where it came from, for messages. */
  readonly source: string;
  readonly length: number;
  /** Items found broken while opening (no caption, no image, unreadable line). */
  readonly skipped: readonly Skipped[];
  /** Identity of the list: keys, captions, sizes of the files; not their pixels. Hex. */
  readonly hash: string;
  item(index: number): Item;
  /** Where the image of an item is, as a manifest names it: a path, or `tar#member`. */
  location(index: number): string;
  /** Encoded bytes of an image. */
  read(index: number): Promise<Uint8Array>;
  dispose(): Promise<void>;
}

export interface OpenDatasetOptions {
  /** Field that holds the image's path. Defaults to 'image' (then 'path', 'file', 'filename', 'url'). */
  imageField?: string;
  /** Field that holds the caption(s). Defaults to 'caption' (then 'captions', 'text', 'txt'). */
  captionField?: string;
  /** False allows images without captions (embedding, balancing). Defaults to true. */
  captions?: boolean;
}
