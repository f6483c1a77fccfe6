"""The papers: one file per figure or statement, with what is run, the picture and the checked claims."""
