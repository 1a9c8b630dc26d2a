// Command generate runs the cases of cyclonus as its own `cyclonus generate` does, but asks each pod once for all it
// should try: that way of asking is in cyclonus, its command line does not offer it.
package main

import (
	"flag"
	"fmt"
	"log"
	"strings"

	"github.com/mattfenwick/cyclonus/pkg/connectivity"
	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/kube"
	v1 "k8s.io/api/core/v1"
)

const (
	askInBatches           = true
	podsReadyWithinSeconds = 60
	// From a change of policies to the first probe
	settledAfterSeconds = 1
)

var namespaces, pods = []string{"x", "y", "z"}, []string{"a", "b", "c"}

func main() {
	include := flag.String("include", "", "cases with one of these tags; none: all")
	exclude := flag.String("exclude", "", "but none with one of these")
	to := flag.String("to", string(generator.ProbeModeServiceIP), "what is asked: service-ip or pod-ip")
	ignoreLoopback := flag.Bool("ignore-loopback", false, "what a pod says of itself does not count")
	full := flag.Bool("full", false, "ports 80 and 81 over TCP and UDP; else port 80 over TCP")
	report := flag.String("junit", "", "the file of the outcomes")
	flag.Parse()

	ports, protocols := []int{80}, []v1.Protocol{v1.ProtocolTCP}
	if *full {
		ports, protocols = []int{80, 81}, []v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP}
	}
	mode := must(generator.ParseProbeMode(*to))
	tags := [2][]string{words(*include), words(*exclude)}
	check(generator.ValidateTags(append(tags[0], tags[1]...)))

	cluster := must(kube.NewKubernetesForContext(""))
	resources := must(probe.NewDefaultResources(
		cluster, namespaces, pods, ports, protocols, nil, podsReadyWithinSeconds, askInBatches, "",
	))
	interpreter := connectivity.NewInterpreter(cluster, resources, &connectivity.InterpreterConfig{
		ResetClusterBeforeTestCase:       true,
		VerifyClusterStateBeforeTestCase: true,
		KubeProbeRetries:                 0,
		PerturbationWaitSeconds:          settledAfterSeconds,
		BatchJobs:                        askInBatches,
		IgnoreLoopback:                   *ignoreLoopback,
	})
	printer := &connectivity.Printer{Noisy: true, IgnoreLoopback: *ignoreLoopback, JunitResultsFile: *report}

	// The address that rules with an ipBlock are about
	peer := must(resources.GetPod("z", "c"))
	cases := generator.NewTestCaseGenerator(true, peer.IP, namespaces, tags[0], tags[1]).GenerateTestCases()
	for number, one := range cases {
		fmt.Printf("case %d of %d: %s\n", number+1, len(cases), one.Description)
		for _, step := range one.Steps {
			step.Probe.Mode = mode
		}
		result := interpreter.ExecuteTestCase(one)
		check(result.Err)
		printer.PrintTestCaseResult(result)
	}
	printer.PrintSummary()
}

// words: strings.Split makes one empty word of nothing.
func words(list string) []string {
	return strings.FieldsFunc(list, func(letter rune) bool { return letter == ',' })
}

func check(err error) {
	if err != nil {
		log.Fatalf("%+v", err)
	}
}

func must[T any](value T, err error) T {
	check(err)
	return value
}
