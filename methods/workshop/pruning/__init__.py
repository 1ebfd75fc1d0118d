"""Parts that one-shot pruners share: the walk over blocks, Hessians, selection, streaming."""
