"""kubelet's door: ENI slots as devices, registration, and whose slot is whose."""
