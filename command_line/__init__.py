"""The command line of all programs, before TensorFlow is loaded.

late_imports  postpones imports until the flags are known to be right
flag_parsing  reads the flags; explains mistakes, and suggests what was meant
input_paths   checks that the input that flags name exists
messages      lines on standard error, without the noise of TensorFlow
subcommands   the command `bert`, whose subcommands are the programs
flag_help     groups of flags, and the text of --help
"""
