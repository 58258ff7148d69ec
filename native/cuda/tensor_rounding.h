// How far tensor cores may be off when they add products of float16, and the one constant that bounds rest on.
//
// NVIDIA does not say. What was found by experiment (Fasi et al., "Numerical behavior of NVIDIA tensor cores", PeerJ
// Computer Science 2021; Khattak and Mikaitis, "Accurate models of NVIDIA tensor cores", 2025): products are exact; some of
// them and the sum so far are aligned with the largest in magnitude and cut off, 8 products behind 24 bits on Ampere and Ada,
// 16 behind 25 bits from Hopper on; their sum is cut off to float32. With S the sum of all magnitudes that is at most
//   (9 2^-24 + 2^-23) S = 0.69 2^-20 S      and      (17 2^-25 + 2^-23) S = 0.66 2^-20 S.
// So a step of 8 products is taken to be off by at most 2^-20 of the magnitudes of its products and of the sum so far.
#pragma once

namespace clipcid::cuda {

constexpr int kTensorStep = 8;
constexpr double kTensorRounding = 0x1p-20;

}  // namespace clipcid::cuda
