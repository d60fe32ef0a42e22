"""The commands: train, sweep, collect_results, list_top_hparams, each run with `python -m domainbed.scripts.NAME`."""
