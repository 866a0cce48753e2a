"""
The network of functions with `network: egress`: a namespace for each container, and rules between it and the world.

    policy     (`mayfly.domain.egress`) what the operator allows and denies
    rules      the nftables of a worker
    resolvers  whom functions ask for names
    namespace  one network namespace, routed by a veth pair
    pool       some that are ready, each used once
"""
