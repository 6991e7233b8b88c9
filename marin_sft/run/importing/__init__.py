"""`marin-sft import`: an experiment file from another trainer's YAML.

command          writes the file and prints what differs
tools            which tool a file is for, and the experiment that comes of it
config_file      a YAML with the line of each key, and which keys were read
keys             tables of keys: read, ignored, left out, refused
axolotl, torchtune, llama_factory            a tool's tables, and its defaults
axolotl_rows, torchtune_rows, llama_factory_rows  a tool's datasets
transformers_keys  what axolotl and LLaMA-Factory take from the Trainer of transformers
rows             where rows lie and what they hold
draft            what is known of the experiment, the same for every tool
texts            prompts, chat templates and functions that the file defines
experiment_file  the file's text, from a draft
"""
