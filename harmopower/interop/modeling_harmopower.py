"""CLIP with mean pooling, and with the bias of the sigmoid loss, for Hugging Face transformers.

This file travels with the models that harmopower exports:

    model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
    processor = CLIPProcessor.from_pretrained(FOLDER, trust_remote_code=True)

It needs transformers and PyTorch and nothing else. The parameters are those of `CLIPModel`, plus `logit_bias` where
`config.sigmoid` is set.
"""

import torch
from transformers import CLIPConfig, CLIPModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import CLIPOutput


class HarmopowerConfig(CLIPConfig):
    """CLIP's config and how the towers pool: `image_pool` "cls" or "mean", `text_pool` "eos" or "mean"."""

    model_type = "harmopower_clip"

    def __init__(self, image_pool="cls", text_pool="eos", sigmoid=False, **settings):
        super().__init__(**settings)
        self.image_pool, self.text_pool, self.sigmoid = image_pool, text_pool, sigmoid


class HarmopowerModel(CLIPModel):
    """`CLIPModel` whose embeddings may be means over the tokens."""

    config_class = HarmopowerConfig

    def __init__(self, config):
        super().__init__(config)
        if config.sigmoid:
            self.logit_bias = torch.nn.Parameter(torch.zeros(()))

    def get_image_features(self, pixel_values, **settings):
        """Embeds images `[B, 3, H, W]`.

        Returns:
          `pooler_output` `[B, D]`, not normalised, and `last_hidden_state` `[B, N, D]`: the patch tokens, row by row,
          in the space of the embeddings.
        """
        tokens = self.vision_model(pixel_values=pixel_values, **settings).last_hidden_state
        tokens = self.visual_projection(self.vision_model.post_layernorm(tokens))
        pooled = tokens[:, 1:].mean(dim=1) if self.config.image_pool == "mean" else tokens[:, 0]
        return BaseModelOutputWithPooling(last_hidden_state=tokens[:, 1:], pooler_output=pooled)

    def get_text_features(self, input_ids, attention_mask=None, **settings):
        """Embeds token ids `[B, T]`: start, text, end, padding. What follows the first end token does not count.

        Returns:
          `pooler_output` `[B, D]`, not normalised, and `last_hidden_state` `[B, T, D]` in the space of the embeddings.
        """
        del attention_mask  # attention is causal, and nothing behind the end token is read
        tokens = self.text_projection(self.text_model(input_ids=input_ids, **settings).last_hidden_state)
        end = (input_ids == self.config.text_config.eos_token_id).int().argmax(dim=1)
        if self.config.text_pool == "mean":
            place = torch.arange(input_ids.shape[1], device=input_ids.device)
            real = ((place > 0) & (place <= end[:, None])).to(tokens.dtype)
            pooled = torch.einsum("bt,btd->bd", real, tokens) / real.sum(dim=1, keepdim=True).clamp(min=1)
        else:
            pooled = tokens[torch.arange(len(tokens), device=tokens.device), end]
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=pooled)

    def forward(self, input_ids, pixel_values, attention_mask=None, **settings):
        """Scores images against texts: `logits_per_image` `[images, texts]`, and the normalised embeddings."""
        images = self.get_image_features(pixel_values, **settings)
        texts = self.get_text_features(input_ids, attention_mask, **settings)
        image_embeds = torch.nn.functional.normalize(images.pooler_output, dim=-1)
        text_embeds = torch.nn.functional.normalize(texts.pooler_output, dim=-1)
        logits = self.logit_scale.exp() * image_embeds @ text_embeds.T
        if self.config.sigmoid:
            logits = logits + self.logit_bias
        return CLIPOutput(
            logits_per_image=logits,
            logits_per_text=logits.T,
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            vision_model_output=images,
            text_model_output=texts,
        )
