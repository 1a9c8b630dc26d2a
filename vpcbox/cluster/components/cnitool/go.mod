module eniway.io/vpcbox/components/cnitool

go 1.24.2

tool github.com/containernetworking/cni/cnitool

require github.com/containernetworking/cni v1.3.0 // indirect
