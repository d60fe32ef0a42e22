"""The commands train, sweep, collect_results and list_top_hparams, to run with `python -m domainbed.scripts.NAME`."""
