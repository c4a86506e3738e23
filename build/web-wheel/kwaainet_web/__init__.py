"""The built page of KwaaiNet; ``kwaainet.native.assets`` finds its folder ``assets`` by this name."""
