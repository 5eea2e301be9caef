"""HTTP in, HTTP out: the only floor that imports aiohttp.web."""
