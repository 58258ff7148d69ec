/** The public API of clip-cid, and nothing else. */

export {
  type AgainstReport,
  type BalanceReport,
  type BalanceStageOptions,
  balanceStage,
  type KeepName,
  type ThresholdRule,
} from './cid/balance.ts';
export { type ClusterReport, type ClusterStageOptions, clusterStage } from './cid/cluster.ts';
export { type Config, type ConfigInput, parseConfig, readConfig } from './cid/config.ts';
export { type DistillOptions, distill } from './cid/distill.ts';
export { type EmbedStageOptions, embedStage } from './cid/embed.ts';
export { type EvalStageOptions, evalStage } from './cid/evaluate.ts';
export { type KeptItem, readKept } from './cid/items.ts';
export { type PretrainOptions, pretrain } from './cid/pretrain.ts';
export { type PipelineOptions, type PipelineResult, runPipeline } from './cid/run.ts';
export {
  type DistillStageOptions,
  distillStage,
  type PretrainStageOptions,
  pretrainStage,
} from './cid/student.ts';
export { type AlignedBackbone, type AlignOptions, type AlignSet, align } from './cskd/align.ts';
export {
  type AlignLoss,
  type AlignLossOptions,
  type AlignWeights,
  alignLoss,
} from './cskd/align-loss.ts';
export { type Analyzed, type AnalyzeStageOptions, analyzeStage } from './cskd/analyze.ts';
export {
  type AestheticsConfig,
  type AestheticsConfigInput,
  parseAestheticsConfig,
  readAestheticsConfig,
} from './cskd/config.ts';
export { type EmdForm, type EmdLoss, emdLoss } from './cskd/emd.ts';
export {
  type RatedImage,
  type ScorerEvalOptions,
  type ScorerResult,
  scorerEvalStage,
} from './cskd/evaluate.ts';
export type {
  LearnerOptions,
  ScorerTrainingOptions,
  TrainedScorer,
  UnlabelledSet,
} from './cskd/learners.ts';
export {
  type AnalysisOptions,
  type PhaseOptions,
  runAlignment,
  runAnalysis,
  runEvaluation,
  runTraining,
} from './cskd/run.ts';
export { type ScoreStageOptions, scoreStage } from './cskd/score.ts';
export { openScorer, type Scorer } from './cskd/scorer.ts';
export {
  type AlignStageOptions,
  alignStage,
  type FeaturesStageOptions,
  featuresStage,
  type PseudoStageOptions,
  pseudoStage,
  type ScorerStageOptions,
  scorerStage,
} from './cskd/stages.ts';
export {
  type TrainMutualOptions,
  type TrainScorerOptions,
  trainMutual,
  trainScorer,
} from './cskd/train.ts';
export {
  type Dataset,
  type Item,
  type OpenDatasetOptions,
  openDataset,
  type Skipped,
  subset,
} from './data/dataset.ts';
export { type NpyArray, readNpy } from './data/npy.ts';
export type { RatedDataset, RatedFormat, Split } from './data/rated/dataset.ts';
export { type OpenRatedOptions, openRated } from './data/rated/open.ts';
export {
  aadbScale,
  avaScale,
  binCentres,
  meanScore,
  paraScale,
  type ScoreScale,
  scoreScale,
  softBin,
} from './data/rated/scale.ts';
export { partOf, type SplitOptions, type Splits, splitRated } from './data/rated/split.ts';
export { type OpenStoreOptions, openStore, type Store } from './data/store.ts';
export { type Encoder, type OpenEncoderOptions, openEncoder } from './encoder/encoder.ts';
export {
  type ImageEncoder,
  type OpenImageEncoderOptions,
  openImageEncoder,
} from './encoder/image-encoder.ts';
export {
  type AnalysisSummary,
  formatAnalysis,
  formatChange,
  summarizeAnalysis,
} from './eval/analysis-format.ts';
export { type AnalyzeOptions, analyzeModel, type ModelAnalysis } from './eval/analyze.ts';
export { writeAttentionModel } from './eval/attention/expose.ts';
export type { AttentionSite } from './eval/attention/find.ts';
export type { AttentionLayer, AttentionOptions, SkippedSite } from './eval/attention/meter.ts';
export { type EmbeddingSpread, SpreadMeter } from './eval/collapse.ts';
export { evaluate } from './eval/evaluate.ts';
export { formatEvaluation } from './eval/format.ts';
export { type PairScore, pairPrecisionRecall } from './eval/groups.ts';
export { type LinearProbeOptions, linearProbe } from './eval/probe.ts';
export { imageImageRetrieval, imageTextRetrieval, retrieval } from './eval/retrieval.ts';
export {
  type Estimate,
  formatEstimate,
  type MeasureScoresOptions,
  measureScores,
  type ScoreMetrics,
  type Scores,
} from './eval/scores.ts';
export { type Spread, spread } from './eval/statistics.ts';
export type {
  DataSummary,
  EvaluateOptions,
  EvaluateResult,
  EvaluationTask,
  ImageImageResult,
  ImageTextResult,
  LinearProbeResult,
  ModelSummary,
  RecallResult,
  ZeroShotResult,
} from './eval/types.ts';
export { classEmbeddings, type ZeroShotOptions, zeroShot } from './eval/zero-shot.ts';
export {
  type BalanceMetric,
  type BalanceOptions,
  type BalanceResult,
  type BalanceSummary,
  balance,
  type ChainingSummary,
  type KeepPolicy,
  summarizeBalance,
} from './kernels/balance.ts';
export { type BalanceEstimate, type EstimateOptions, estimateBalance } from './kernels/estimate.ts';
export {
  type BalanceForestOptions,
  balanceForest,
  type ForestCut,
  SpanningForest,
  type SpanningForestFields,
} from './kernels/forest.ts';
export { balanceAgainst, type IncrementalOptions, type IncrementalResult } from './kernels/incremental.ts';
export {
  type KmeansOptions,
  type KmeansResult,
  kmeans,
  type PredictOptions,
  type PredictResult,
  predict,
} from './kernels/kmeans.ts';
export {
  clusterInstanceLoss,
  type LossInputs,
  type LossOptions,
  type LossOutput,
  type SampleCentresOptions,
  type SoftTargets,
  type SoftTargetsOptions,
  sampleCentres,
  softTargets,
} from './kernels/loss.ts';
export {
  type NearestOptions,
  type NearestProductOptions,
  type NearestResult,
  nearest,
  nearestProduct,
  type Pairs,
} from './kernels/nearest.ts';
export { type PairBatch, type PairsOptions, pairs } from './kernels/pairs.ts';
export { DeviceMatrix, type Dtype, type FileMatrix, type Matrix, type Rows, upload } from './kernels/rows.ts';
export { type SemdedupOptions, type SemdedupResult, semdedup } from './kernels/semdedup.ts';
export { type ChooseThresholdOptions, type ChosenThreshold, chooseThreshold } from './kernels/threshold.ts';
export type { KernelOptions, KernelProgress } from './native/context.ts';
export {
  type ChosenDevice,
  type Device,
  type DeviceInfo,
  type DevicesReport,
  devices,
  setInstructions,
  setThreads,
  threads,
} from './native/devices.ts';
export { CidError, type CidErrorCode } from './native/errors.ts';
export type { Instructions } from './native/instructions.ts';
export { type Peak, peak } from './native/peak.ts';
export { type NamedAnalysis, writeAnalysisReport } from './report/analysis.ts';
export { type ReportOptions, writeReport } from './report/report.ts';
export type { OnProgress, ProgressEvent } from './run/progress.ts';
export type { StageSettings } from './run/settings.ts';
export type { Existing, StageManifest, StageOutput, StageResult } from './run/stage.ts';
export type { AugmentOptions } from './student/augment.ts';
export type { BackboneChoice, BackboneOptions } from './student/backbone.ts';
export {
  type StudentConfig,
  type StudentName,
  type StudentOptions,
  studentConfig,
  studentNames,
} from './student/config.ts';
export type { TrainedStudent, TrainerOptions, TrainingOptions } from './student/options.ts';
export { studentParameters } from './student/towers.ts';
