"""What the product does: publish, consume, wait and forward."""
