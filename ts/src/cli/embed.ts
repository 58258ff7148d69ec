import type { Command } from 'commander';
import { required } from '../run/schema.ts';
import { type CommonFlags, list, number, placeFlags, runCommand, stageFlags } from './common.ts';
import { MODEL_FOLDER, openPlace, sourceFlags } from './place.ts';

interface Flags extends CommonFlags {
  data?: string;
  model?: string;
  imageField?: string;
  captionField?: string;
  batchSize?: number;
  dtype?: string;
  shardSize?: number;
  providers?: string[];
}

export function embedCommand(program: Command): void {
  const command = program
    .command('embed')
    .description('embed images and captions with a model, in resumable shards');
  stageFlags(placeFlags(sourceFlags(command), 'folder for the embedding store'))
    .option('--model <dir>', 'model folder: a CLIP exported to ONNX, see below')
    .addOption(number('--batch-size <n>', 'images or texts of one run of the model (default: 64)'))
    .option('--dtype <type>', "type of the stored embeddings: 'float32' or 'float16' (default: float32)")
    .addOption(number('--shard-size <n>', 'rows of a shard (default: 4096)'))
    .addOption(
      list('--providers <names>', "execution providers of ONNX Runtime, such as 'cuda,cpu' (default: cpu)"),
    )
    .addHelpText('after', MODEL_FOLDER)
    .addHelpText(
      'after',
      `
Examples:
  $ clip-cid embed --data 'photos/*.tar' --model models/clip --out embeddings/
  $ clip-cid embed --data list.csv --image-field file --caption-field title --model models/clip --run runs/mine`,
    )
    .action((flags: Flags, command: Command) =>
      runCommand(flags, async (session) => {
        const { embedStage } = await import('../cid/embed.ts');
        const place = await openPlace('embed', session, command, {
          data: flags.data,
          teacher: flags.model,
          imageField: flags.imageField,
          captionField: flags.captionField,
          embed: { batchSize: flags.batchSize, dtype: flags.dtype, shardSize: flags.shardSize },
          encoder: { providers: flags.providers },
        });
        try {
          const { config } = place;
          const result = await embedStage({
            ...place.settings(session),
            data: required(config.data, 'data (--data)', 'a data set'),
            model: required(config.teacher, 'teacher (--model)', 'a model folder'),
            imageField: config.imageField,
            captionField: config.captionField,
            encoder: config.encoder,
            ...config.embed,
          });
          await place.finish(session, result);
        } finally {
          await place.dispose();
        }
      }),
    );
}
