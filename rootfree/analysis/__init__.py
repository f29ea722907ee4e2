"""From run folders to answers: tables, statistics, verdicts, figures, a report. Reads files, imports no training."""
