import { activationRules } from './activation.ts';
import { arithmeticRules } from './arithmetic.ts';
import type { GradientRule, GradientRules } from './context.ts';
import { convolutionRules } from './convolution.ts';
import { layoutRules } from './layout.ts';
import { matmulRules } from './matmul.ts';
import { normalizationRules } from './normalization.ts';
import { poolingRules } from './pooling.ts';
import { reductionRules } from './reduction.ts';

const nothing: GradientRule = () => undefined;

/** Piecewise constant: the gradient is zero. */
const flatRules: GradientRules = { Floor: nothing, Ceil: nothing, Sign: nothing, ConstantOfShape: nothing };

export const GRADIENT_RULES: GradientRules = {
  ...arithmeticRules,
  ...activationRules,
  ...layoutRules,
  ...matmulRules,
  ...normalizationRules,
  ...reductionRules,
  ...convolutionRules,
  ...poolingRules,
  ...flatRules,
};
