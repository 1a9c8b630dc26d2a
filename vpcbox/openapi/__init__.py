"""The ECS and VPC OpenAPI over HTTP: parse, ask the world, answer. One method an Action, one file a resource."""
