"""Switchable quantized layers and their static counterparts. The only package that imports Brevitas."""
