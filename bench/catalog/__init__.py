"""Everything that is found by name, in sections: methods, measures, formats and more."""
