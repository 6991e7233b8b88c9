"""Rows from files of any kind and back, a dataset's splits, blocks of rows, and the rows that a step leaves out."""
