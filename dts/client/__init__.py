"""The client: a file through a function, one row a line; from the command `dts-client` or from a program."""

from dts.client.client import DtsClient, Job, Summary
from dts.client.components import (
    Batch,
    Call,
    DataSource,
    JsonFileIOComponent,
    TextFileIOComponent,
    WordFileIOComponent,
)
from dts.client.credentials import load_credentials
from dts.client.output import DailyRotatingOutputFile, OutputFile
from dts.client.processors import ResultProcessor, RowWriter
from dts.client.rows import Results, RowFormat

__all__ = [
    "Batch",
    "Call",
    "DailyRotatingOutputFile",
    "DataSource",
    "DtsClient",
    "Job",
    "JsonFileIOComponent",
    "OutputFile",
    "ResultProcessor",
    "Results",
    "RowFormat",
    "RowWriter",
    "Summary",
    "TextFileIOComponent",
    "WordFileIOComponent",
    "load_credentials",
]
