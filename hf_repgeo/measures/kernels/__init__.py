"""Fast paths: products, neighbours, k-means, quantizers."""
