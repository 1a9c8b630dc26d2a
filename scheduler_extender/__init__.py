"""The scheduler's door: which nodes can serve a pod, and which serve it best.

    wire      the extender protocol's JSON (k8s.io/kube-scheduler/extender/v1)
    pods      what a pod needs: an address, routed or not, or a whole ENI
    room      how many more pods of each need one node can serve (pure)
    stock     what the nodes may still draw from the vSwitches that they share (pure)
    index     all nodes: room, less the pods bound there and the places held (pure)
    score     which nodes are best (pure)
    filter    a pod and the scheduler's nodes → a short list, each with a place held for the pod (pure)
    journal   the places held, on disk
    explain   why a pod is Pending, node by node (pure)
    server    HTTP

A place is counted once, however it is known: by the lease that the node's daemon has published, by the pod that is
bound to the node and not finished, by the hold of a pod that may be bound there any moment, or by a pod that has just
gone and of whose end the daemon has not told yet. All four carry the pod's UID; the count is of their union.
"""
