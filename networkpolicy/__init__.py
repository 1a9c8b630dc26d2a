"""NetworkPolicy (networking.k8s.io/v1) for the pods of this node, whatever their kind.

    pods, namespaces, policies (views)  ─▶  model: who is selected, who is in which set
                                              │  program: per pod and direction, ordered terms with verdicts
                                              ▼
    leases of this node (endpoints)     ─▶  render: a program is a chain, a set an ipset       (pure up to here)
                                              ▼
                                            place: diff, and the kernel, in the node's namespace or in that of an
                                            exclusive pod; enforcer: one change after the other

Words: an **endpoint** is a lease of this node; its **program** of a direction is what the policies that select it allow
there, None where none does. A **term** says: from or to this peer, at this port, with this verdict. A **set** holds
addresses of pods (equal selectors share one), addresses and ports (named ports), or networks (ipBlock). A **place** is
a network namespace in which packets are filtered.

Programs and sets of networks are named after their content, so none is ever changed: a change makes a new one, one
commit leads packets to it, the old one goes. Members of the other sets change one by one. The order of a change is: add
members, commit rules, remove members. So a packet meets the policies of before or of after, or for a moment the union
of what both allow; never less than both.
"""
