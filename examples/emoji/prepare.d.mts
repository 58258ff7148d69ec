export interface PrepareReport {
  seed: number;
  share: number;
  images: { train: number; heldout: number };
  concepts: { train: number; heldout: number };
  categories: number;
  subcategories: number;
  skipped: { key: string; reason: string }[];
}
export const vendors: readonly string[];
export const templates: readonly string[];
export function conceptCode(unified: string): string;
export function words(name: string): string;
export function captionsOf(emoji: {
  name: string;
  short_names: string[];
  category: string;
  subcategory: string;
}): string[];
export function prepare(options: { out: string; seed?: number; share?: number }): PrepareReport;
