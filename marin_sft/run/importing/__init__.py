"""`marin-sft import`: an experiment file from another trainer's YAML.

config_file     the YAML, with the line of each key and which keys were read
keys            how a table of keys is read; what is left out and what is refused
draft           what an experiment needs to know, whatever the tool
rows            where rows lie and what they hold, as code
texts           prompts and chat templates that the file states itself
experiment_file the file, written
transformers_keys  what axolotl and LLaMA-Factory take from the Trainer of transformers
axolotl, torchtune, llama_factory  one tool each: its table, its defaults, its datasets
tools           which tool a file is for
"""
