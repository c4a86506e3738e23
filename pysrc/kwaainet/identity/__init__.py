"""Who a peer is: key pairs and the ids made from them."""
