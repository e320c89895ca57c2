# The settings of the box that scripts/vagrant/build makes; Vagrant merges them with the checkout's.
Vagrant.configure("2") do |config|
  config.ssh.private_key_path = File.join(__dir__, "key")
  # Without KVM a machine takes minutes to boot.
  config.vm.boot_timeout = 900

  config.vm.provider "libvirt" do |libvirt|
    libvirt.driver = "qemu"
    libvirt.kernel = File.join(__dir__, "vmlinuz")
    libvirt.initrd = File.join(__dir__, "initrd.img")
    # Names of interfaces as the public box has them.
    libvirt.cmd_line = "root=/dev/vda rw net.ifnames=0 console=ttyS0"
    libvirt.graphics_type = "none"
    libvirt.video_type = "none"
  end
end
