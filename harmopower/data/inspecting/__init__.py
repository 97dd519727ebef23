"""What is in a data set: numbers (`statistics`) and a page to look at (`cards` or `batches`, drawn by `page`).

`tools.inspect` is the command line.
"""


def regions(example: dict) -> list[dict]:
    """The regions of an example without those entries whose box a caption names: that has an entry of its own.

    Readers and `match` store such a box once without a span and once for each caption that names it
    (`records.regions_of`).
    """
    named = {tuple(map(float, region["box"])) for region in example["regions"] if region["caption"] >= 0}
    return [one for one in example["regions"] if one["caption"] >= 0 or tuple(map(float, one["box"])) not in named]
