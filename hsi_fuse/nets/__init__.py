"""Network parts that stages share: tensors in, tensors out; nothing here knows of scenes or sensors.

Feature maps are (b, c, H, W). Flows and offsets are in pixels, columns first, then rows: a flow f says that
what belongs at pixel q is found at q + f(q), which is the direction of `displace` and of `Alignment`.
"""
