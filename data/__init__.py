"""Files and records: how data are read, and how they are written.

    file_io      text, JSON and whole, durable files; names and patterns
    locks        one writer at a time in a folder
    records      TFRecord files: when they can be used again, what is damaged
    unfinished   parts of an output while it is made
"""
