"""Prompts that box classification is published with; the evaluated model makes its class embeddings of them."""

# ViLD's 63 (Gu et al. 2022, tensorflow/tpu `vild`), in the order of wusize/CLIPSelf
# `tools/generate_text_embeddings.py`; <a> is `a` or `an`.
_VILD = """
There is <a> <name> in the scene.; There is the <name> in the scene.; a photo of <a> <name> in the scene.;
a photo of the <name> in the scene.; a photo of one <name> in the scene.; itap of <a> <name>.; itap of my <name>.;
itap of the <name>.; a photo of <a> <name>.; a photo of my <name>.; a photo of the <name>.; a photo of one <name>.;
a photo of many <name>.; a good photo of <a> <name>.; a good photo of the <name>.; a bad photo of <a> <name>.;
a bad photo of the <name>.; a photo of a nice <name>.; a photo of the nice <name>.; a photo of a cool <name>.;
a photo of the cool <name>.; a photo of a weird <name>.; a photo of the weird <name>.; a photo of a small <name>.;
a photo of the small <name>.; a photo of a large <name>.; a photo of the large <name>.; a photo of a clean <name>.;
a photo of the clean <name>.; a photo of a dirty <name>.; a photo of the dirty <name>.; a bright photo of <a> <name>.;
a bright photo of the <name>.; a dark photo of <a> <name>.; a dark photo of the <name>.;
a photo of a hard to see <name>.; a photo of the hard to see <name>.; a low resolution photo of <a> <name>.;
a low resolution photo of the <name>.; a cropped photo of <a> <name>.; a cropped photo of the <name>.;
a close-up photo of <a> <name>.;
a close-up photo of the <name>.; a jpeg corrupted photo of <a> <name>.;
a jpeg corrupted photo of the <name>.; a blurry photo of <a> <name>.; a blurry photo of the <name>.;
a pixelated photo of <a> <name>.; a pixelated photo of the <name>.; a black and white photo of the <name>.;
a black and white photo of <a> <name>.; a plastic <name>.; the plastic <name>.; a toy <name>.; the toy <name>.;
a plushie <name>.; the plushie <name>.; a cartoon <name>.; the cartoon <name>.; an embroidered <name>.;
the embroidered <name>.; a painting of the <name>.; a painting of a <name>.
"""
# CLIP's 80 for ImageNet (openai/CLIP `notebooks/Prompt_Engineering_for_ImageNet.ipynb`), as 360CVGroup/FG-CLIP has
# them on its branch v1.0, `fgclip/eval/in_1K/templates.py`.
_IMAGENET = """
a bad photo of a <name>.; a photo of many <name>.; a sculpture of a <name>.; a photo of the hard to see <name>.;
a low resolution photo of the <name>.; a rendering of a <name>.; graffiti of a <name>.; a bad photo of the <name>.;
a cropped photo of the <name>.; a tattoo of a <name>.; the embroidered <name>.; a photo of a hard to see <name>.;
a bright photo of a <name>.; a photo of a clean <name>.; a photo of a dirty <name>.; a dark photo of the <name>.;
a drawing of a <name>.; a photo of my <name>.; the plastic <name>.; a photo of the cool <name>.;
a close-up photo of a <name>.; a black and white photo of the <name>.; a painting of the <name>.;
a painting of a <name>.;
a pixelated photo of the <name>.; a sculpture of the <name>.; a bright photo of the <name>.;
a cropped photo of a <name>.; a plastic <name>.; a photo of the dirty <name>.; a jpeg corrupted photo of a <name>.;
a blurry photo of the <name>.; a photo of the <name>.; a good photo of the <name>.; a rendering of the <name>.;
a <name> in a video game.; a photo of one <name>.; a doodle of a <name>.; a close-up photo of the <name>.;
a photo of a <name>.; the origami <name>.; the <name> in a video game.; a sketch of a <name>.;
a doodle of the <name>.; a origami <name>.; a low resolution photo of a <name>.; the toy <name>.;
a rendition of the <name>.; a photo of the clean <name>.; a photo of a large <name>.; a rendition of a <name>.;
a photo of a nice <name>.; a photo of a weird <name>.; a blurry photo of a <name>.; a cartoon <name>.;
art of a <name>.; a sketch of the <name>.; a embroidered <name>.; a pixelated photo of a <name>.; itap of the <name>.;
a jpeg corrupted photo of the <name>.; a good photo of a <name>.; a plushie <name>.; a photo of the nice <name>.;
a photo of the small <name>.; a photo of the weird <name>.; the cartoon <name>.; art of the <name>.;
a drawing of the <name>.; a photo of the large <name>.; a black and white photo of a <name>.; the plushie <name>.;
a dark photo of a <name>.; itap of a <name>.; graffiti of the <name>.; a toy <name>.; itap of my <name>.;
a photo of a cool <name>.; a photo of a small <name>.; a tattoo of the <name>.
"""


def _list(text: str) -> list[str]:
    return [" ".join(template.split()) for template in text.split(";")]


VILD, IMAGENET = _list(_VILD), _list(_IMAGENET)


def vild(name: str) -> list[str]:
    """The prompts of a class as CLIPSelf and FineCLIP write them.

    `_` is a space and `/` is ` or `, all in lower case without a dot at the end; the article follows from the first
    letter of the raw name; and "This is " stands before a prompt that begins with "a" or "the".
    """
    article = "an" if name[0] in "aeiou" else "a"
    words = name.replace("_", " ").replace("/", " or ").lower().rstrip(".")
    texts = [template.replace("<a>", article).replace("<name>", words) for template in VILD]
    return [f"This is {text}" if text.startswith(("a", "the")) else text for text in texts]


def imagenet(name: str) -> list[str]:
    """The prompts of a class as FG-CLIP writes them; `_` of LVIS's names is a space."""
    return [template.replace("<name>", name.replace("_", " ")) for template in IMAGENET]
