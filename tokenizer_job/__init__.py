"""Items -> semantic IDs: vectors, RQ-Kmeans, the item index."""
