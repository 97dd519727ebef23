"""Tiny random models of the real classes of transformers, saved as their users save them."""

import torch
import transformers

WORDS = ["a", "dog", "red", "sofa", "cat", "on", "the", ",", ".", "ring", "small", "box", "two"]
SIDE = 64


def sam(folder):
    """SamModel for images of 64 x 64."""
    torch.manual_seed(0)
    vision = dict(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=16,
        mlp_dim=16,
        output_channels=16,
        window_size=0,
        global_attn_indexes=[0],
        num_pos_feats=8,
    )
    prompts = dict(hidden_size=16, image_size=SIDE, patch_size=16, mask_input_channels=4)
    decoder = dict(hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16)
    config = transformers.SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    transformers.SamModel(config).save_pretrained(folder)
    return folder


def sam2(folder):
    """Sam2Model for images of 64 x 64."""
    torch.manual_seed(0)
    backbone = dict(
        model_type="sam2_hiera_det_model", hidden_size=8, num_attention_heads=1, image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[8, 16, 32, 64], num_attention_heads_per_stage=[1, 1, 2, 2],
        window_size_per_stage=[4, 4, 4, 4],
        window_positional_embedding_background_size=[4, 4], global_attention_blocks=[3], patch_kernel_size=[7, 7],
    )  # fmt: skip
    vision = dict(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        fpn_hidden_size=32,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )
    prompts = dict(hidden_size=32, image_size=SIDE, patch_size=16)
    decoder = dict(hidden_size=32, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16)
    config = transformers.Sam2Config(
        vision_config={"model_type": "sam2_vision_model", **vision},
        prompt_encoder_config=prompts,
        mask_decoder_config=decoder,
    )
    transformers.Sam2Model(config).save_pretrained(folder)
    return folder


def owlv2(folder):
    """Owlv2ForObjectDetection, its tokenizer and its image processor."""
    torch.manual_seed(0)
    tokenizer = _clip_tokenizer(folder)
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
    )
    vision = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=SIDE, patch_size=16
    )
    config = transformers.Owlv2Config(text_config=text, vision_config=vision, projection_dim=16)
    transformers.Owlv2ForObjectDetection(config).save_pretrained(folder)
    _processor("Owlv2ImageProcessor", folder, size={"height": SIDE, "width": SIDE})
    return folder


def grounding_dino(folder):
    """GroundingDinoForObjectDetection, its tokenizer and its image processor."""
    torch.manual_seed(0)
    tokenizer = _bert_tokenizer(folder)
    backbone = transformers.SwinConfig(
        image_size=SIDE,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )
    text = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=32,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_queries=12,
        max_text_len=32,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    _processor("GroundingDinoImageProcessor", folder, size={"shortest_edge": 96, "longest_edge": 160})
    return folder


def _processor(kind, folder, **settings):
    getattr(transformers, kind + "Pil")(**settings).save_pretrained(folder)


def _bert_tokenizer(folder):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    tokenizer = transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(vocabulary)})
    tokenizer.save_pretrained(folder)
    return tokenizer


def _clip_tokenizer(folder):
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = ["!", *letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = transformers.CLIPTokenizerFast(
        vocab={word: number for number, word in enumerate(vocabulary)}, merges=[]
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
