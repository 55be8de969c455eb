"""Recorded results as figures for papers and slides, made with matplotlib and seaborn."""
