"""HarmoCLIP on COCO train2017, from a published CLIP ViT-B/16: global, LRC and GR (METHOD sections 5 and 8).

Batch, epochs, learning rate, weight decay, warm-up and 20 boxes are FineCLIP's (its scripts/train_vitb16.sh), which is
HarmoCLIP's frame as far as could be inferred. `runs/init/b16` is what tools.convert_weights has made of the weights.
"""

from harmopower.config import get_config as defaults


def get_config():
    """The difference from the defaults, which are ViT-B/16 of 224 px with OpenAI's activation and pixels."""
    config = defaults()
    config.init = "runs/init/b16"
    config.batch_size = 256
    config.total_steps, config.total_epochs = 0, 10.0
    config.data.source = "runs/data/coco"
    config.data.tokenizer = "runs/init/b16"
    config.data.label_prompt = "a photo of a {}"
    config.data.max_boxes = 20
    config.data.workers = 16
    config.model.dense = "value"
    config.model.dtype = "bfloat16"
    config.objective.region_pooling = "roi_align"
    config.objective.lexeme_region.weight = 1.0
    config.objective.global_region.weight = 1.0
    config.objective.powerset.weight = 0.0
    config.optimizer.learning_rate = 1e-5
    config.optimizer.warmup_steps = 1000
    config.optimizer.weight_decay = 0.1
    config.evaluation.suite = "retrieval"
    config.log.every_steps = 50
    return config
