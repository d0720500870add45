"""The Python API in five lines: sharpen scene.hdr with camera.tif, both in the current folder."""

from hsi_fuse import fuse, read, write

hsi, guide = read.read_hsi("scene.hdr"), read.open_guide("camera.tif")
result = fuse(hsi, guide, scale=4)
write.save(result, "sharp.tif", products=["confidence", "support"])
