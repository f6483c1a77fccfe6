"""The papers: one file per figure or statement, with the runs, the picture and the checked claims."""
