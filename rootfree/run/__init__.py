"""The folder of a run, one file per job. Empty of code: the status of runs is told without torch."""
