"""Instances stop, start and go. The guest is not the world's matter: stop and release come after its end."""

from dataclasses import replace

from vpcbox.world.errors import Refused
from vpcbox.world.estate import Estate
from vpcbox.world.lifecycle import Event, following
from vpcbox.world.model import EniType, InstanceStatus
from vpcbox.world.plugs import Plugs
from vpcbox.world.tasks import Tasks


class Power:
    """What becomes of an instance's cards when it stops, starts or goes.

    https://help.aliyun.com/zh/ecs/user-guide/instance-lifecycle
    """

    def __init__(self, estate: Estate, plugs: Plugs, tasks: Tasks) -> None:
        self._estate = estate
        self._plugs = plugs
        self._tasks = tasks

    async def stop(self, instance_id: str) -> None:
        """Stopped: its ENIs stay attached and keep their addresses, and no packet reaches them."""
        self._change(instance_id, InstanceStatus.RUNNING, InstanceStatus.STOPPED)
        for eni in self._estate.attached(instance_id):
            await self._plugs.pull(eni.id)

    async def start(self, instance_id: str) -> None:
        """Running: its cards are links again, the primary one first."""
        self._change(instance_id, InstanceStatus.STOPPED, InstanceStatus.RUNNING)
        for eni in self._estate.attached(instance_id):
            await self._plugs.push(eni.id)

    async def release(self, instance_id: str) -> None:
        """Gone, with its primary ENI and those that were to go with it; the others are Available again.

        Route entries that lead to it stay, and lead nowhere.
        """
        self._estate.instance(instance_id)
        del self._estate.instances[instance_id]
        for eni in self._estate.attached(instance_id):
            await self._tasks.stop(eni.id)
            await self._plugs.pull(eni.id)
        for eni in self._estate.attached(instance_id):
            if eni.type is EniType.PRIMARY or eni.delete_on_release:
                del self._estate.enis[eni.id]
                self._estate.release(eni.vswitch_id, eni.addresses)
                self._tasks.forget(eni.id)
            else:
                status = following(eni.status, Event.RELEASED)
                self._estate.put(replace(eni, status=status, instance_id=None, slot=None))
        self._estate.forget(instance_id)

    def _change(self, instance_id: str, before: InstanceStatus, after: InstanceStatus) -> None:
        instance = self._estate.instance(instance_id)
        if instance.status is not before:
            raise Refused(
                "IncorrectInstanceStatus", "The current status of the resource does not support this operation."
            )
        self._estate.instances[instance_id] = replace(instance, status=after)
