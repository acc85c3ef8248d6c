#!/bin/sh
# Installation scripts ask this policy whether they may start a service. 101 means no.
exit 101
