"""Methods of other papers, to compare with."""
