"""Pictures: photographs in, frames, grids and figures out, and heat drawn over them."""
