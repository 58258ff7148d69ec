import type { LoweringRules } from '../lowering.ts';
import { elementwiseRules } from './elementwise.ts';
import { imageRules } from './images.ts';
import { layoutRules } from './layout.ts';
import { normRules } from './norms.ts';
import { productRules } from './products.ts';
import { reductionRules } from './reductions.ts';

/** How each operator becomes operations of the native core. Names are unique over the domains that there are. */
export const LOWERING_RULES: LoweringRules = {
  ...elementwiseRules,
  ...imageRules,
  ...layoutRules,
  ...normRules,
  ...productRules,
  ...reductionRules,
};
