"""The methods the field compares with, one file each."""
