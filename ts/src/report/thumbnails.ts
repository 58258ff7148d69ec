import { readFile } from 'node:fs/promises';
import sharp from 'sharp';
import { decodeImage } from '../data/image.ts';
import { indexTar, readRegion, type TarMember } from '../data/tar.ts';
import { Html, html } from './html.ts';

/** Side of the square that a thumbnail fits into, in pixels. */
const SIDE = 64;

/** Small images for a page that loads nothing: each is read once, and put in as a data URI wherever it is shown. */
export class Thumbnails {
  /** Bytes that all of them may take together; what comes later is shown by its name. */
  readonly #most: number;
  readonly #known = new Map<string, Promise<string | undefined>>();
  readonly #tars = new Map<string, Promise<Map<string, TarMember>>>();
  #bytes = 0;

  constructor(mostBytes: number) {
    this.#most = mostBytes;
  }

  /** An `<img>` for a location as a data set gives it (a path, or `file.tar#member`), or its name in a box when there is no picture. */
  async show(location: string | undefined, name: string): Promise<Html> {
    const uri = location === undefined ? undefined : await this.#uri(location);
    return uri === undefined
      ? html`<span class="thumb missing" title="${name}">${name}</span>`
      : html`<img class="thumb" src="${new Html(uri)}" alt="${name}" title="${name}" width="${SIDE}" height="${SIDE}">`;
  }

  #uri(location: string): Promise<string | undefined> {
    let known = this.#known.get(location);
    if (known === undefined) {
      // A picture that is gone or broken must not cost the report.
      known = this.#encode(location).catch(() => undefined);
      this.#known.set(location, known);
    }
    return known;
  }

  async #encode(location: string): Promise<string | undefined> {
    if (this.#bytes >= this.#most) return undefined;
    const { data, width, height } = await decodeImage(await this.#read(location));
    const webp = await sharp(data, { raw: { width, height, channels: 3 } })
      .resize(SIDE, SIDE, { fit: 'inside', withoutEnlargement: true })
      .webp({ quality: 80 })
      .toBuffer();
    const uri = `data:image/webp;base64,${webp.toString('base64')}`;
    if (this.#bytes + uri.length > this.#most) return undefined;
    this.#bytes += uri.length;
    return uri;
  }

  async #read(location: string): Promise<Uint8Array> {
    const mark = location.indexOf('.tar#');
    if (mark < 0) return readFile(location);
    const tar = location.slice(0, mark + 4);
    let index = this.#tars.get(tar);
    if (index === undefined) {
      index = indexTar(tar).then(({ members }) => new Map(members.map((member) => [member.name, member])));
      this.#tars.set(tar, index);
    }
    const { offset, size } = (await index).get(location.slice(mark + 5))!;
    return readRegion(tar, offset, size);
  }
}
