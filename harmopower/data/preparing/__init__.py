"""How a data set is prepared from a published format: plan, shards, report, tokenizer, `dataset_info.json`.

`plan` cuts the inputs into tasks, `jobs` runs them, `tasks` makes the shards of one with `screening`, `joining` makes a
data set of all, and `commands` is what `tools.prepare` calls. While it is being made, and as its history afterwards,
the folder of a data set holds `preparing/`: `plan.json`, and for each task its report, the hashes of its ids and its
captions for training a tokenizer. `dataset_info.json` comes last: a data set is complete or not there.
"""

FOLDER = "preparing"
