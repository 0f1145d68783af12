// Package chart tries the Helm chart with helm itself, and holds the rights it
// grants to those that the code names.
package chart
