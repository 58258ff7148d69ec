/** Stable codes of {@link CidError}; a program may branch on them, messages may change. */
export type CidErrorCode =
  | 'ADDON_NOT_FOUND' // no binary of the native core for this platform
  | 'DEVICE_UNAVAILABLE' // the device that was asked for is not there
  | 'OUT_OF_MEMORY'
  | 'INVALID_DATA' // values in the data that an operation cannot take (zero, NaN or infinite rows, …)
  | 'INVALID_CONFIG' // a configuration file or option set
  | 'FILE_NOT_FOUND'
  | 'FILE_FORMAT' // a file that is not what it should be: damaged, cut short, of another kind
  | 'FILE_WRITE' // disk full, no permission, …
  | 'MODEL_INVALID' // a model folder or ONNX graph without what is needed
  | 'MODEL_UNSUPPORTED' // an operator or attribute that training or inference cannot take
  | 'PROVIDER_UNAVAILABLE' // an execution provider of ONNX Runtime that is not in this build
  | 'RUN_LOCKED' // another process works in the run folder
  | 'RUN_CHANGED' // what is there was made with other inputs or options
  | 'DISPOSED'
  | 'DIVERGED' // training met a loss or a gradient that is not finite
  | 'ABORTED'
  | 'INTERNAL';

/** Failure of a device, a file, a model or a run. Misuse of an API is a `TypeError` or `RangeError` instead. */
export class CidError extends Error {
  readonly code: CidErrorCode;

  constructor(code: CidErrorCode, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = 'CidError';
    this.code = code;
  }
}

/** What an aborted operation rejects with. */
export function abortError(): CidError {
  return new CidError('ABORTED', 'The operation was aborted');
}
