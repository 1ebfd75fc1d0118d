"""What methods are built with: walks over blocks, trainers, grids and codecs, transforms, and other
libraries."""
